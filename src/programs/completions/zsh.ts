import { type CommandSpec, everyCommand, type OptionSpec, type Placed, type Values } from "./commandLine.ts"

const quoted = (text: string): string => `'${text.replaceAll("'", "'\\''")}'`

const action = (values: Values): string => {
  switch (values._tag) {
    case "Text":
      return " "
    case "File":
      return "_files"
    case "Folder":
      return "_files -/"
    case "Interface":
      return "_net_interfaces"
    case "Choice":
      return `(${values.of.join(" ")})`
  }
}

/** A specification of `_arguments` for each name; one excludes the other, unless the option may come again. */
const optionSpecs = ({ about, long, repeats, short, values }: OptionSpec): ReadonlyArray<string> => {
  const value = values === undefined ? "" : `:${long.slice(2)}:${action(values)}`
  const guard = repeats === true ? "*" : `(${short === undefined ? "" : `${short} `}${long})`
  return [
    ...(short === undefined ? [] : [quoted(`${guard}${short}[${about}]${value}`)]),
    quoted(`${guard}${long}${values === undefined ? "" : "="}[${about}]${value}`)
  ]
}

const functionOf = (root: string, path: ReadonlyArray<string>): string => [`_${root}`, ...path].join("__")

const body = (root: string, { path, spec }: Placed): ReadonlyArray<string> => {
  const name = functionOf(root, path)
  const { argument, commands = [] } = spec
  const specs = spec.options.flatMap(optionSpecs)
  const rest = commands.length > 0
    ? ["': :->command'", "'*:: :->rest'"]
    : argument === undefined
    ? []
    : [quoted(`*:${argument.name}:${action(argument.values)}`)]
  const call = ["_arguments -S -C", ...specs, ...rest].join(" \\\n        ")
  if (commands.length === 0) return [`${name}() {`, `    ${call}`, "}"]
  return [
    `${name}() {`,
    "    local curcontext=\"$curcontext\" state line ret=1",
    "    typeset -A opt_args",
    `    ${call} && ret=0`,
    "    case $state in",
    "    command)",
    "        local -a commands=(",
    ...commands.map(({ about, name }) => `            ${quoted(`${name}:${about}`)}`),
    "        )",
    "        _describe -t commands command commands && ret=0 ;;",
    "    rest)",
    "        case $line[1] in",
    ...commands.map((inner) => `        ${inner.name}) ${functionOf(root, [...path, inner.name])} && ret=0 ;;`),
    "        esac ;;",
    "    esac",
    "    return ret",
    "}"
  ]
}

export const zshScript = (root: CommandSpec): string => {
  const main = functionOf(root.name, [])
  return [
    `#compdef ${root.name}`,
    "",
    ...everyCommand(root).toReversed().flatMap((placed) => [...body(root.name, placed), ""]),
    "# Loaded by name from a folder of $fpath, or by source.",
    `if [[ $funcstack[1] == ${main} ]]; then ${main} "$@"; else compdef ${main} ${root.name}; fi`,
    ""
  ].join("\n")
}
