"""Distilling the Knowledge in a Neural Network (Hinton, Vinyals and Dean, 2015)."""
