"""Kernels: processes that keep the state of a language between cells."""
