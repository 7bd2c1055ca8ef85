"""Parts of the world by area. Each module has PART, its type; simulate(seed) and replay(folder), which make one."""
