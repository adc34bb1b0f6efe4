import { type CommandSpec, everyCommand, namesOf, type OptionSpec, type Placed, type Values } from "./commandLine.ts"

const quoted = (text: string): string => `'${text.replaceAll("\\", "\\\\").replaceAll("'", "\\'")}'`

const candidates = (values: Values): string => {
  switch (values._tag) {
    case "Text":
      return "-x"
    case "File":
      return "-r -F"
    case "Folder":
      return "-x -a '(__fish_complete_directories)'"
    case "Interface":
      return "-x -a '(command ls /sys/class/net 2>/dev/null)'"
    case "Choice":
      return `-x -a ${quoted(values.of.join(" "))}`
  }
}

export const fishScript = (root: CommandSpec): string => {
  const all = everyCommand(root)
  const prefix = `__${root.name.replaceAll("-", "_")}`
  const at = (path: ReadonlyArray<string>): string => `-n ${quoted(`${prefix}_at ${quoted(path.join(" "))}`)}`
  const option = (path: ReadonlyArray<string>, { about, long, short, values }: OptionSpec): string =>
    [
      `complete -c ${root.name} ${at(path)}`,
      ...(short === undefined ? [] : [`-s ${short.slice(1)}`]),
      `-l ${long.slice(2)}`,
      ...(values === undefined ? [] : [candidates(values)]),
      `-d ${quoted(about)}`
    ].join(" ")
  const lines = ({ path, spec }: Placed): ReadonlyArray<string> => [
    ...(spec.commands ?? []).map(({ about, name }) =>
      `complete -c ${root.name} ${at(path)} -a ${name} -d ${quoted(about)}`
    ),
    ...(spec.argument === undefined || spec.argument.values._tag === "Text"
      ? []
      : [`complete -c ${root.name} ${at(path)} ${candidates(spec.argument.values).replace(/^-[rx] /, "")}`]),
    ...spec.options.map((each) => option(path, each))
  ]
  const commands = all.filter(({ path }) => path.length > 0).map(({ path }) => quoted(path.join(" ")))
  const valued = all.flatMap(({ path, spec }) =>
    spec.options.filter(({ values }) => values !== undefined).flatMap(namesOf).map((name) =>
      quoted([...path, name].join(" "))
    )
  )
  return [
    `# fish completion for ${root.name}`,
    `function ${prefix}_at -a wanted -d 'Whether the words so far lead to this command'`,
    "    set -l path",
    "    set -l words (commandline -opc)",
    "    set -e words[1]",
    "    set -l skip 0",
    "    for word in $words",
    "        if test $skip = 1",
    "            set skip 0",
    "            continue",
    "        end",
    "        switch (string join ' ' -- $path $word)",
    `            case ${commands.join(" ")}`,
    "                set -a path $word",
    `            case ${valued.join(" ")}`,
    "                set skip 1",
    "        end",
    "    end",
    "    set -l joined (string join ' ' -- $path)",
    "    test \"$joined\" = \"$wanted\"",
    "end",
    `complete -c ${root.name} -f`,
    ...all.flatMap(lines),
    ""
  ].join("\n")
}
