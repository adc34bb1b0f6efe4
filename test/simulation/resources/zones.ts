/** What the resolvers of this world say; every one says something else, so that answers tell who was asked. */
import * as dns from "dns-packet"
import { ip } from "../../../src/protocol/wire/address.ts"
import type { Answer } from "./fate.ts"

/** Long enough to be kept, short enough to be seen to end. */
export const TTL = 30

const numberOf = (server: string): number => [...server].reduce((sum, each) => (sum * 31 + each.charCodeAt(0)) % 199, 7)

export const answerOf = (server: string, name: string, type: string): Answer => {
  const n = numberOf(server)
  if (name.startsWith("missing.")) return { code: "NXDOMAIN", data: [] }
  const data: { readonly [type: string]: string } = {
    A: `198.18.${n}.1`,
    AAAA: ip(`2001:db8:5::${n.toString(16)}:1`),
    TXT: `told by ${n}`,
    SRV: `443 host${n}.test`,
    PTR: `host${n}.test`
  }
  return { code: "NOERROR", data: data[type] === undefined ? [] : [data[type]] }
}

const typeName = (type: string): "A" => (type === "HTTPS" ? "UNKNOWN_65" : type) as "A"

export const encodeQuestion = (id: number, name: string, type: string): Uint8Array =>
  Uint8Array.from(
    dns.encode({ type: "query", id, flags: dns.RECURSION_DESIRED, questions: [{ type: typeName(type), name }] })
  )

export interface Question {
  readonly id: number
  readonly name: string
  readonly type: string
}

export const decodeQuestion = (message: Uint8Array): Question => {
  const { id = 0, questions = [] } = dns.decode(Buffer.from(message))
  const [question] = questions
  return { id, name: question?.name ?? "", type: question?.type === typeName("HTTPS") ? "HTTPS" : question?.type ?? "" }
}

export const encodeAnswer = ({ id, name, type }: Question, { code, data }: Answer): Uint8Array =>
  Uint8Array.from(dns.encode({
    type: "response",
    id,
    flags: dns.RECURSION_DESIRED | (code === "NXDOMAIN" ? 3 : code === "SERVFAIL" ? 2 : 0),
    questions: [{ type: typeName(type), name }],
    answers: data.map((text) => ({
      type: type as "A",
      name,
      ttl: TTL,
      data: type === "SRV" ? { port: Number(text.split(" ")[0]), target: text.split(" ")[1] ?? "" } : text
    } as dns.StringAnswer))
  }))

export const decodeAnswer = (message: Uint8Array): Answer & Question => {
  const { answers = [], rcode } = dns.decode(Buffer.from(message)) as dns.DecodedPacket & { readonly rcode: string }
  return {
    ...decodeQuestion(message),
    code: rcode as Answer["code"],
    data: answers.map(({ data, type }: dns.Answer & { data?: unknown }) => {
      if (type === "A" || type === "AAAA") return ip(String(data))
      if (type === "TXT") return [data].flat().map(String).join("")
      if (type === "SRV") return `${(data as dns.SrvData).port} ${(data as dns.SrvData).target}`
      return String(data)
    })
  }
}
