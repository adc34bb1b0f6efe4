export const completionsHelp = `Usage: firezone-headless-client completions bash|zsh|fish

Prints a script that teaches the shell this command line. The Debian package has
them in place; otherwise, as root, one of:

  firezone-headless-client completions bash \\
    > /etc/bash_completion.d/firezone-headless-client
  firezone-headless-client completions zsh \\
    > /usr/local/share/zsh/site-functions/_firezone-headless-client
  firezone-headless-client completions fish \\
    > /etc/fish/completions/firezone-headless-client.fish

They work in shells that are started afterwards.
`
