"""What is here is run by ``make mutate``, and wants packages that the tests do without."""

collect_ignore_glob = ["*.py"]
