"""Tests of the core: draws, blends, and running models."""
