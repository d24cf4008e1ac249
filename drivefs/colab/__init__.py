"""Functions with the signatures and messages of ``google.colab``, for notebooks. Imports ``drivefs.client`` only."""
