// js-libp2p 3.3 calls Promise.withResolvers, which Node has from 22 on. Imported before it.
Promise.withResolvers ??= function () {
  let resolve, reject
  const promise = new this((fulfil, fail) => { resolve = fulfil; reject = fail })
  return { promise, resolve, reject }
}
