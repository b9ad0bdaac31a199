"""`python -m leaktrace`"""

from leaktrace.cli import main

if __name__ == "__main__":
    main()
