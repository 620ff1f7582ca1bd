"""The published benchmarks E-VQA, E-IC and VLKEB, from their JSON files and images."""
