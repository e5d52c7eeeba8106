//! `slipway completions`.

use clap::{Args, Command};
use clap_complete::Shell;

use crate::client::output;

/// What `slipway completions` is told.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  slipway completions bash > /usr/share/bash-completion/completions/slipway
  slipway completions zsh > /usr/share/zsh/vendor-completions/_slipway
  slipway completions fish > ~/.config/fish/completions/slipway.fish")]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

impl CompletionsArgs {
    /// Prints the completions of `command`.
    pub(crate) fn run(self, mut command: Command) -> anyhow::Result<()> {
        let name = command.get_name().to_string();
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, name, &mut script);
        output::write_stdout(&script)
    }
}
