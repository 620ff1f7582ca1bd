"""Published benchmarks, from their JSON files and images."""
