/** What `--dns-control auto` becomes: what this machine's programs really ask. */
import * as fs from "node:fs"
import * as path from "node:path"
import type { DnsControlMethod } from "../../services/ClientConfig.ts"
import { type FileKind, kindOf } from "./ResolvConfFile.ts"
import { asksOnlyStub, isOurs, nameserversOf } from "./resolvConfText.ts"
import { readText } from "./systemServers.ts"

/** What decides. */
export interface ResolverFacts {
  readonly kind: FileKind
  /** Where a link leads to. */
  readonly link: string
  /** Of a regular file. */
  readonly text: string
  readonly isWritable: boolean
  /** By its command or over D-Bus. */
  readonly canTellResolved: boolean
}

export interface Choice {
  readonly method: Exclude<DnsControlMethod, "auto" | "nrpt">
  /** For a person: the evidence, and what to do if names will not work. */
  readonly reason: string
}

/** Of all links that systemd-resolved's manual names, with `/var/run` for `/run`. */
const RESOLVED_FILES = /^(\/var)?\/run\/systemd\/resolve\/|^(\/usr)?\/lib\/systemd\/resolv\.conf$/

/** Whether the programs of this machine ask systemd-resolved. */
const isOfResolved = ({ kind, link, text }: Pick<ResolverFacts, "kind" | "link" | "text">): boolean =>
  kind === "link"
    ? RESOLVED_FILES.test(link)
    : kind === "file" && !isOurs(text) && asksOnlyStub(nameserversOf(text))

const OTHERWISE = "names of resources will not resolve; addresses and networks work"

export const choose = (file: string, facts: ResolverFacts): Choice => {
  const { canTellResolved, isWritable, kind, link, text } = facts
  if (isOfResolved(facts)) {
    const evidence = kind === "link" ? `${file} leads to ${link}` : `${file} names its server alone`
    return canTellResolved
      ? { method: "systemd-resolved", reason: evidence }
      : { method: "disabled", reason: `${evidence}, but there is neither D-Bus nor resolvectl: ${OTHERWISE}` }
  }
  if (kind === "link") return { method: "disabled", reason: `${file} leads to ${link}, a file of others: ${OTHERWISE}` }
  if (kind !== "file") return { method: "disabled", reason: `${file} is ${kind}: ${OTHERWISE}` }
  return isWritable || isOurs(text)
    ? { method: "etc-resolv-conf", reason: `${file} is a file` }
    : { method: "disabled", reason: `${file} may not be written: ${OTHERWISE}` }
}

export const factsOf = (file: string, canTellResolved: boolean): ResolverFacts => {
  const kind = kindOf(file)
  return {
    kind,
    link: kind === "link" ? path.resolve(path.dirname(file), fs.readlinkSync(file)) : "",
    text: kind === "file" ? readText(file) : "",
    isWritable: kind === "file" && isWritable(file),
    canTellResolved
  }
}

const isWritable = (file: string): boolean => {
  try {
    fs.accessSync(file, fs.constants.W_OK)
    return true
  } catch {
    return false
  }
}
