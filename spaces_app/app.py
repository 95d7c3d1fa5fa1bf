"""The Space: the page of neuronsteer. Variables of the Space go before what stands here."""

from neuronsteer.space import from_environment

if __name__ == "__main__":
    from_environment(model="demo", neurons="demo")
