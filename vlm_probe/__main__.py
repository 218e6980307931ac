from vlm_probe.cli import main

main()
