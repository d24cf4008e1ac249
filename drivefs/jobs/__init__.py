"""What runs by itself, and the only place where disk and network meet. Imports ``store``, ``remote`` and ``base``."""
