import {
  CLASS_IN,
  decodeDns,
  decodeQuestion,
  type DnsMessage,
  type DomainName,
  RecordType,
  ResponseCode,
  sameName
} from "../wire/dns.ts"

/** A question that an application asks (tunnel spec 12.3). */
export interface DnsQuery {
  /** The whole message, owned by the query. */
  readonly bytes: Uint8Array
  readonly id: number
  /** In the case that it was asked in. */
  readonly name: DomainName
  readonly type: number
  readonly class: number
  /** Where the question ends. */
  readonly end: number
  /** A standard query of class IN: only those can be answered here. */
  readonly isOrdinary: boolean
  /** The asker checks signatures (RFC 3225) or wants none checked: only the upstream's own answer will do. */
  readonly isDnssec: boolean
}

const FIXED_OPT_LENGTH = 11
const DNSSEC_OK = 0x80

/** `undefined` for anything but one question in a message whose answer section parses. Copies the bytes. */
export const parseDnsQuery = (message: Uint8Array): DnsQuery | undefined => {
  const found = decodeQuestion(message)
  if (found === undefined || (byteAt(message, 2) & 0x80) !== 0) return undefined
  if (uint16(message, 4) !== 1) return undefined
  // A question with answers is a rare thing: an update, a notification, or broken.
  if (uint16(message, 6) !== 0 && decodeDns(message) === undefined) return undefined
  const { end, question } = found
  return {
    bytes: message.slice(),
    id: uint16(message, 0),
    name: question.name,
    type: question.type,
    class: question.class,
    end,
    isOrdinary: (byteAt(message, 2) & 0x78) === 0 && question.class === CLASS_IN,
    isDnssec: (byteAt(message, 3) & 0x10) !== 0 || hasDnssecOk(message, end)
  }
}

/** Of the additional records only one in the first place counts, where every resolver library puts it. */
const hasDnssecOk = (message: Uint8Array, end: number): boolean =>
  uint16(message, 6) === 0 && uint16(message, 8) === 0 && uint16(message, 10) !== 0 &&
  message.length >= end + FIXED_OPT_LENGTH && message[end] === 0 && uint16(message, end + 1) === RecordType.OPT &&
  (byteAt(message, end + 7) & DNSSEC_OK) !== 0

const byteAt = (bytes: Uint8Array, at: number): number => bytes[at] ?? 0
const uint16 = (bytes: Uint8Array, at: number): number => byteAt(bytes, at) << 8 | byteAt(bytes, at + 1)

/**
 * Whether `message` is the answer: id and question agree (RFC 5452 section 9.1). Who cannot read a question may leave it
 * out of the error.
 */
export const isAnswerTo = (message: DnsMessage, query: DnsQuery): boolean => {
  if (!message.isResponse || message.id !== query.id) return false
  const [question] = message.questions
  if (question === undefined) return message.responseCode !== ResponseCode.NoError
  return message.questions.length === 1 && question.type === query.type && question.class === query.class &&
    sameName(question.name, query.name)
}
