"""The engines that ``cpu_peers.py`` compares, each run in a process of its own."""
