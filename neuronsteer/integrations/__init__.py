"""Other libraries: each file here connects neuronsteer with one of them, if it is installed."""
