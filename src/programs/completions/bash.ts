import { type CommandSpec, everyCommand, namesOf, type Placed, type Values } from "./commandLine.ts"

/** What a word is looked up by: the words before it that are commands, and itself. */
const key = (path: ReadonlyArray<string>, word: string): string =>
  JSON.stringify([...path, word].map((part) => ` ${part}`).join(""))

const reply = (values: Values): string => {
  switch (values._tag) {
    case "Text":
      return ""
    case "File":
      return "compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -f -- \"$cur\"); "
    case "Folder":
      return "compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -d -- \"$cur\"); "
    case "Interface":
      return "mapfile -t COMPREPLY < <(compgen -W \"$(command ls /sys/class/net 2>/dev/null)\" -- \"$cur\"); "
    case "Choice":
      return `mapfile -t COMPREPLY < <(compgen -W ${JSON.stringify(values.of.join(" "))} -- "$cur"); `
  }
}

const valueCases = ({ path, spec }: Placed): ReadonlyArray<string> =>
  spec.options.flatMap((option) =>
    option.values === undefined ? [] : [
      `        ${namesOf(option).map((name) => key(path, name)).join(" | ")}) ${reply(option.values)}return ;;`
    ]
  )

const pathCase = ({ path, spec }: Placed): ReadonlyArray<string> => {
  const options = spec.options.flatMap(namesOf).join(" ")
  const commands = (spec.commands ?? []).map(({ name }) => name).join(" ")
  const label = JSON.stringify(path.map((part) => ` ${part}`).join(""))
  const { argument } = spec
  const plain = commands !== ""
    ? `words=${JSON.stringify(commands)}`
    : argument === undefined
    ? `words=${JSON.stringify(options)}`
    : `${reply(argument.values)}return`
  return [
    `        ${label})`,
    `            if [[ $cur == -* ]]; then words=${JSON.stringify(options)}; else ${plain}; fi ;;`
  ]
}

export const bashScript = (root: CommandSpec): string => {
  const all = everyCommand(root)
  const fn = `_${root.name.replaceAll("-", "_")}`
  const commands = all.filter(({ path }) => path.length > 0).map(({ path }) =>
    key(path.slice(0, -1), path.at(-1) ?? "")
  )
  const valued = all.flatMap(({ path, spec }) =>
    spec.options.filter(({ values }) => values !== undefined).flatMap(namesOf).map((name) => key(path, name))
  )
  return [
    `# bash completion for ${root.name}`,
    `${fn}() {`,
    "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} path= words= i",
    "    COMPREPLY=()",
    "    # Readline takes --option=value for three words.",
    "    if [[ $cur == = ]]; then cur=; elif [[ $prev == = ]]; then prev=${COMP_WORDS[COMP_CWORD-2]}; fi",
    "    for ((i = 1; i < COMP_CWORD; i++)); do",
    "        case \"$path ${COMP_WORDS[i]}\" in",
    `        ${commands.join(" | ")}) path="$path \${COMP_WORDS[i]}" ;;`,
    `        ${valued.join(" | ")}) [[ \${COMP_WORDS[i+1]} == = ]] && ((i++)); ((i++)) ;;`,
    "        esac",
    "    done",
    "    case \"$path $prev\" in",
    ...all.flatMap(valueCases),
    "    esac",
    "    case \"$path\" in",
    ...all.flatMap(pathCase),
    "    esac",
    "    mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$cur\")",
    "}",
    `complete -F ${fn} ${root.name}`,
    ""
  ].join("\n")
}
