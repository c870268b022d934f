"""The steward: fetches and deletes models, and decides which are loaded. A worker like any other, whose
jobs are those of `shared.management`, without MLX."""
