"""Training: one loop for every stage, over objectives that are plain functions of (model, batch, random draw)."""
