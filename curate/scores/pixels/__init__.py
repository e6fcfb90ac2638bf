"""Hardness scores from small networks trained on the images themselves."""
