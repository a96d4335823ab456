// gRPC's interoperability cases with @grpc/grpc-js: node interop.js CASE HOST:PORT
'use strict';

const assert = require('node:assert/strict');
const path = require('node:path');
const grpc = require('@grpc/grpc-js');
const protoLoader = require('@grpc/proto-loader');

const [caseName, address] = process.argv.slice(2);
const proto = path.join(__dirname, '..', 'interop', 'test.proto');
const {TestService, UnimplementedService} = grpc.loadPackageDefinition(
  protoLoader.loadSync(proto, {defaults: true}),
).grpc.testing;

const SIZES = [[31415, 27182], [9, 8], [2653, 1828], [58979, 45904]];
const SPECIAL = '\t\ntest with whitespace\r\nand Unicode BMP \u263a and non-BMP \u{1f608}\t\n';
const ECHO_INITIAL = 'x-grpc-test-echo-initial';
const ECHO_TRAILING = 'x-grpc-test-echo-trailing-bin';
const TRAILING = Buffer.from([10, 11, 10, 11, 10, 11]);

const client = new TestService(address, grpc.credentials.createInsecure());

// The outcome of a unary call: {error, answer, initial, status}.
function unary(method, request, metadata = new grpc.Metadata(), on = client) {
  return new Promise((resolve) => {
    const outcome = {};
    const call = on[method](request, metadata, (error, answer) => {
      Object.assign(outcome, {error, answer});
    });
    call.on('metadata', (initial) => Object.assign(outcome, {initial}));
    call.on('status', (status) => resolve({...outcome, status}));
  });
}

// A stream's answers one by one: `next` gives the next one, `end` waits for the status.
class Reader {
  constructor(stream) {
    this.answers = [];
    this.waiting = [];
    this.initial = new Promise((resolve) => stream.on('metadata', resolve));
    stream.on('error', () => {}); // the status says it too
    this.end = new Promise((resolve) => stream.on('status', resolve));
    stream.on('data', (answer) => {
      const waiter = this.waiting.shift();
      if (waiter) waiter(answer);
      else this.answers.push(answer);
    });
  }

  next() {
    if (this.answers.length > 0) return Promise.resolve(this.answers.shift());
    return new Promise((resolve) => this.waiting.push(resolve));
  }
}

const zeros = (size) => ({body: Buffer.alloc(size)});
const asking = ([size, payload]) => ({responseParameters: [{size}], payload: zeros(payload)});

function echoed() {
  const metadata = new grpc.Metadata();
  metadata.set(ECHO_INITIAL, 'test_initial_metadata_value');
  metadata.set(ECHO_TRAILING, TRAILING);
  return metadata;
}

const cases = {
  async empty_unary() {
    const {error, answer} = await unary('emptyCall', {});
    assert.equal(error, null);
    assert.deepEqual({...answer}, {});
  },

  async large_unary() {
    const request = {responseSize: 314159, payload: zeros(271828)};
    const {error, answer} = await unary('unaryCall', request);
    assert.equal(error, null);
    assert.equal(answer.payload.body.length, 314159);
  },

  async client_streaming() {
    const answer = await new Promise((resolve, reject) => {
      const call = client.streamingInputCall((error, value) => (error ? reject(error) : resolve(value)));
      for (const [, size] of SIZES) call.write({payload: zeros(size)});
      call.end();
    });
    assert.equal(answer.aggregatedPayloadSize, 74922);
  },

  async server_streaming() {
    const request = {responseParameters: SIZES.map(([size]) => ({size}))};
    const reader = new Reader(client.streamingOutputCall(request));
    for (const [size] of SIZES) assert.equal((await reader.next()).payload.body.length, size);
    assert.equal((await reader.end).code, grpc.status.OK);
    assert.equal(reader.answers.length, 0);
  },

  async ping_pong() {
    const call = client.fullDuplexCall();
    const reader = new Reader(call);
    for (const pair of SIZES) {
      call.write(asking(pair));
      assert.equal((await reader.next()).payload.body.length, pair[0]);
    }
    call.end();
    assert.equal((await reader.end).code, grpc.status.OK);
  },

  async empty_stream() {
    const call = client.fullDuplexCall();
    const reader = new Reader(call);
    call.end();
    assert.equal((await reader.end).code, grpc.status.OK);
    assert.equal(reader.answers.length, 0);
  },

  async cancel_after_begin() {
    const code = await new Promise((resolve) => {
      const call = client.streamingInputCall((error) => resolve(error.code));
      setImmediate(() => call.cancel());
    });
    assert.equal(code, grpc.status.CANCELLED);
  },

  async cancel_after_first_response() {
    const call = client.fullDuplexCall();
    const reader = new Reader(call);
    call.write(asking(SIZES[0]));
    await reader.next();
    call.cancel();
    assert.equal((await reader.end).code, grpc.status.CANCELLED);
  },

  async timeout_on_sleeping_server() {
    const call = client.fullDuplexCall({deadline: Date.now() + 20});
    const reader = new Reader(call);
    call.write({payload: zeros(27182)});
    assert.equal((await reader.end).code, grpc.status.DEADLINE_EXCEEDED);
  },

  async status_code_and_message() {
    const request = {responseStatus: {code: 2, message: 'test status message'}};
    const {status} = await unary('unaryCall', request);
    assert.deepEqual([status.code, status.details], [2, 'test status message']);
    const call = client.fullDuplexCall();
    const reader = new Reader(call);
    call.write(request);
    const {code, details} = await reader.end;
    assert.deepEqual([code, details], [2, 'test status message']);
  },

  async special_status_message() {
    const request = {responseStatus: {code: 2, message: SPECIAL}};
    const {status} = await unary('unaryCall', request);
    assert.deepEqual([status.code, status.details], [2, SPECIAL]);
  },

  async unimplemented_method() {
    const {status} = await unary('unimplementedCall', {});
    assert.equal(status.code, grpc.status.UNIMPLEMENTED);
  },

  async unimplemented_service() {
    const other = new UnimplementedService(address, grpc.credentials.createInsecure());
    const {status} = await unary('unimplementedCall', {}, new grpc.Metadata(), other);
    assert.equal(status.code, grpc.status.UNIMPLEMENTED);
    other.close();
  },

  async custom_metadata() {
    const {initial, status} = await unary('unaryCall', {responseSize: 1}, echoed());
    assert.deepEqual(initial.get(ECHO_INITIAL), ['test_initial_metadata_value']);
    assert.deepEqual(status.metadata.get(ECHO_TRAILING), [TRAILING]);
    const call = client.fullDuplexCall(echoed());
    const reader = new Reader(call);
    call.write(asking(SIZES[1]));
    await reader.next();
    call.end();
    assert.deepEqual((await reader.initial).get(ECHO_INITIAL), ['test_initial_metadata_value']);
    assert.deepEqual((await reader.end).metadata.get(ECHO_TRAILING), [TRAILING]);
  },
};

cases[caseName]().then(
  () => client.close(),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
