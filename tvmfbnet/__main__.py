"""``python -m tvmfbnet``: the same command line as ``tvmfbnet``, for torchrun and for environments without scripts."""

from tvmfbnet.cli.main import main

if __name__ == "__main__":
    main()
