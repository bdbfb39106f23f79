#![no_main]

nanoserve_fuzz::target!(gguf);
