"""The built wheel, installed by itself outside the checkout."""
