"""`python -m distillscale` is `distillscale`."""

from .cli import main

if __name__ == "__main__":
    main()
