/** `completions SHELL`: a script that teaches the shell this command line. */
import * as Args from "@effect/cli/Args"
import * as Command from "@effect/cli/Command"
import * as Console from "effect/Console"
import { bashScript } from "./bash.ts"
import { commandLine, type Shell, SHELLS } from "./commandLine.ts"
import { fishScript } from "./fish.ts"
import { zshScript } from "./zsh.ts"

const scripts = { bash: bashScript, zsh: zshScript, fish: fishScript }

export const script = (shell: Shell): string => scripts[shell](commandLine)

export const completionsCommand = Command.make(
  "completions",
  { shell: Args.choice(SHELLS.map((shell) => [shell, shell] as [Shell, Shell]), { name: "SHELL" }) },
  ({ shell }) => Console.log(script(shell).trimEnd())
)
