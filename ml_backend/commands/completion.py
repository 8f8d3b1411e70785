"""Print the shell code that completes `ml-backend` commands and options.

bash:  eval "$(ml-backend completion bash)"      in ~/.bashrc
zsh:   eval "$(ml-backend completion zsh)"       in ~/.zshrc
fish:  ml-backend completion fish | source       in ~/.config/fish/config.fish
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=["bash", "zsh", "fish"], help="your shell")


def run(args: argparse.Namespace) -> int:
    from argcomplete.shell_integration import shellcode  # noqa: PLC0415 - only here

    print(shellcode(["ml-backend"], shell=args.shell))
    return 0
