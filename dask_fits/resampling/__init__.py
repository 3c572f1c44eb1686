"""Resampling: images brought onto the pixels of another grid, and combined there."""
