"""``python -m xar_agent`` is ``xar-agent``."""

from xar_agent.cli.main import main

if __name__ == "__main__":
    main()
