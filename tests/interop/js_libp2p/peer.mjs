// A js-libp2p node that does what JSON lines on its stdin say; ../foreign.py lists the commands.
// Signatures are strict and limits are the library's own; only score counters are kept from decaying.
import './polyfill.mjs'
import { createInterface } from 'node:readline'
import { generateKeyPair } from '@libp2p/crypto/keys'
import { gossipsub } from '@libp2p/gossipsub'
import { identify, identifyPush } from '@libp2p/identify'
import { kadDHT, passthroughMapper } from '@libp2p/kad-dht'
import { noise } from '@libp2p/noise'
import { peerIdFromString } from '@libp2p/peer-id'
import { ping, PING_PROTOCOL } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { yamux } from '@libp2p/yamux'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'
import { CID } from 'multiformats/cid'
import * as Digest from 'multiformats/hashes/digest'

const LIMIT_MS = 60_000
const HOUR_MS = 3_600_000

const topicScore = { meshMessageDeliveriesWeight: 0, meshFailurePenaltyWeight: 0 }
const node = await createLibp2p({
  addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] },
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  services: {
    identify: identify(),
    identifyPush: identifyPush(),
    ping: ping(),
    pubsub: gossipsub({
      globalSignaturePolicy: 'StrictSign',
      emitSelf: true, // how a publisher learns the id of its own message
      scoreParams: { decayInterval: HOUR_MS, topics: { [process.argv.at(-1)]: topicScore } }
    }),
    ...(process.argv.includes('--kad')
      ? {
          dht: kadDHT({
            protocol: '/ipfs/kad/1.0.0',
            clientMode: false, // by default it only asks, and takes no private addresses
            peerInfoMapper: passthroughMapper,
            validators: { interop: async () => {} },
            selectors: { interop: () => 0 }
          })
        }
      : {})
  }
})
const pubsub = node.services.pubsub
const self = node.peerId.toString()
const heard = []
let ownId
pubsub.addEventListener('gossipsub:message', ({ detail: { msgId, msg } }) => {
  const id = Buffer.from(msgId, 'base64').toString('hex')
  if (msg.from.toString() === self) ownId = id
  else heard.push({ topic: msg.topic, from: msg.from.toString(), data: Buffer.from(msg.data).toString('hex'), id })
})

async function until (condition, what) {
  const end = Date.now() + LIMIT_MS
  for (;;) {
    const found = await condition()
    if (found) return found
    if (Date.now() > end) throw new Error(`waited ${LIMIT_MS} ms for ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
}

async function known (peer) {
  const id = peerIdFromString(peer)
  if (!await node.peerStore.has(id)) return
  const { protocols, addresses, metadata, id: { publicKey } } = await node.peerStore.get(id)
  if (!metadata.has('AgentVersion')) return
  return {
    protocols,
    addresses: addresses.map((address) => address.multiaddr.toString()),
    agent: new TextDecoder().decode(metadata.get('AgentVersion')),
    key_matches: id.equals(publicKey.toMultihash().bytes)
  }
}

const commands = {
  async connect ({ addr }) { await node.dial(multiaddr(addr)) },
  async identified ({ peer }) { return await until(() => known(peer), `identify of ${peer}`) },
  async ping ({ peer, count }) {
    const ms = []
    while (ms.length < count) ms.push(await node.services.ping.ping(peerIdFromString(peer)))
    return { ms }
  },
  async pong ({ peer, count }) {
    const stream = await node.getConnections(peerIdFromString(peer))[0].newStream(PING_PROTOCOL)
    const chunks = stream[Symbol.asyncIterator]()
    for (let round = 0; round < count; round++) {
      const sent = Buffer.alloc(32, round)
      stream.send(sent)
      let back = Buffer.alloc(0)
      while (back.length < sent.length) back = Buffer.concat([back, (await chunks.next()).value.subarray()])
      if (!back.equals(sent)) throw new Error('other bytes came back')
    }
    await stream.close()
    return { rounds: count }
  },
  async subscribe ({ topic }) { pubsub.subscribe(topic) },
  async mesh ({ topic, peers }) {
    await until(() => peers.every((peer) => pubsub.getMeshPeers(topic).includes(peer)), `${peers} in the mesh`)
  },
  async narrow () { Object.assign(pubsub.opts, { D: 1, Dlo: 1, Dhi: 1, Dscore: 1, Dout: 0 }) },
  async streams ({ peer }) {
    const found = { opened: [], accepted: [] }
    for (const stream of node.getConnections(peerIdFromString(peer)).flatMap((connection) => connection.streams)) {
      found[stream.direction === 'outbound' ? 'opened' : 'accepted'].push(stream.protocol)
    }
    return found
  },
  async publish ({ topic, data }) {
    await pubsub.publish(topic, Buffer.from(data, 'hex'))
    return { id: ownId }
  },
  async forge ({ topic, data }) {
    const honest = pubsub.publishConfig
    pubsub.publishConfig = { ...honest, privateKey: await generateKeyPair('Ed25519') }
    try { await pubsub.publish(topic, Buffer.from(data, 'hex')) } finally { pubsub.publishConfig = honest }
  },
  async table ({ peer }) {
    const id = peerIdFromString(peer)
    await until(() => node.services.dht.routingTable.find(id), `${peer} in the table`)
  },
  async put ({ key, value }) {
    for await (const event of node.services.dht.put(Buffer.from(key), Buffer.from(value, 'hex'))) void event
  },
  async get ({ key }) {
    for await (const event of node.services.dht.get(Buffer.from(key))) {
      if (event.name === 'VALUE' && !event.from.equals(node.peerId)) return { value: Buffer.from(event.value).toString('hex') }
    }
    return { value: null }
  },
  async provide ({ key }) {
    const cid = CID.createV1(0x55, Digest.decode(Buffer.from(key, 'hex')))
    for await (const event of node.services.dht.provide(cid)) void event
  },
  async providers ({ key }) {
    const peers = new Set()
    for await (const event of node.services.dht.findProviders(CID.createV1(0x55, Digest.decode(Buffer.from(key, 'hex'))))) {
      if (event.name === 'PROVIDER') for (const { id } of event.providers) peers.add(id.toString())
    }
    return { peers: [...peers] }
  },
  async received ({ count }) {
    await until(() => heard.length >= count, `${count} messages`)
    return { messages: heard }
  },
  async refused ({ count }) {
    await until(() => Object.values(pubsub.dumpPeerScoreStats()).flatMap((peer) => Object.values(peer.topics))
      .reduce((sum, stats) => sum + stats.invalidMessageDeliveries, 0) >= count, `${count} refused messages`)
  }
}

const say = (answer) => process.stdout.write(JSON.stringify(answer) + '\n')
say({ ready: true, peer_id: self, addr: node.getMultiaddrs()[0].toString() })
for await (const line of createInterface({ input: process.stdin })) {
  const { do: name, ...given } = JSON.parse(line)
  try {
    say({ ok: true, ...await commands[name](given) })
  } catch (error) {
    say({ ok: false, error: `${error}` })
  }
}
process.exit(0)
