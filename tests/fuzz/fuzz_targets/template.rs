#![no_main]

nanoserve_fuzz::target!(template);
