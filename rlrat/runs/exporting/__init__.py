"""Export: write a trained policy to a file that runs where rlrat is not, and compare both."""
