"""Ways from and to the libraries where networks already live. Nothing heavy is imported before it is used.

``schedules``      the forward process of a diffusers scheduler's configuration
``loading``        ``ss.from_diffusers``: their pipelines and networks as a ``ScoreModel``
``diffusers``      ``ScoreSolveScheduler``: any table as the scheduler of their pipelines
``kdiffusion``     any table under the signature of k-diffusion's and ComfyUI's samplers
"""
