"""The Space: the page of neuronsteer. Variables of the Space override what is written here."""

from neuronsteer.space import from_environment

if __name__ == "__main__":
    from_environment(model="demo", neurons="demo")
