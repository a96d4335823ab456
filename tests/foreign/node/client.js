// What @grpc/grpc-js gets from Penstock, one function a case: node client.js CASE HOST:PORT PROTOS
'use strict';

const assert = require('node:assert/strict');
const path = require('node:path');
const grpc = require('@grpc/grpc-js');
const protoLoader = require('@grpc/proto-loader');

const [caseName, address, protos] = process.argv.slice(2);
const GZIP = grpc.compressionAlgorithms.gzip;

function load(file) {
  return grpc.loadPackageDefinition(
    protoLoader.loadSync(path.join(protos, file), {includeDirs: [protos], defaults: true}),
  );
}

function connect(options = {}) {
  const {GRPCInferenceService} = load('grpc_service.proto').inference;
  return new GRPCInferenceService(address, grpc.credentials.createInsecure(), options);
}

// The outcome of a unary call: {error, answer}.
function unary(client, method, request, options = {}) {
  return new Promise((resolve) => {
    client[method](request, options, (error, answer) => resolve({error, answer}));
  });
}

function identity(id, values) {
  return {
    modelName: 'identity_fp32',
    id,
    inputs: [{name: 'X', datatype: 'FP32', shape: [1, values.length]}],
    rawInputContents: [Buffer.from(new Float32Array(values).buffer)],
  };
}

function floats(response) {
  const raw = response.rawOutputContents[0];
  return Array.from({length: raw.length / 4}, (_, i) => raw.readFloatLE(4 * i));
}

// Everything that a stream answers, and the status it ends with.
function collect(stream) {
  return new Promise((resolve) => {
    const answers = [];
    stream.on('data', (answer) => answers.push(answer));
    stream.on('error', () => {}); // the status says it too
    stream.on('status', (status) => resolve({answers, status}));
  });
}

const cases = {
  async metadata() {
    const client = connect();
    assert.equal((await unary(client, 'serverLive', {})).answer.live, true);
    assert.equal((await unary(client, 'serverReady', {})).answer.ready, true);
    assert.equal((await unary(client, 'serverMetadata', {})).answer.name, 'penstock');
    const {answer} = await unary(client, 'modelMetadata', {name: 'simple'});
    assert.deepEqual(answer.inputs.map((input) => input.name), ['INPUT0', 'INPUT1']);
    const {answer: config} = await unary(client, 'modelConfig', {name: 'simple'});
    assert.equal(config.config.maxBatchSize, 8);
    client.close();
  },

  async infer() {
    const client = connect();
    const {error, answer} = await unary(client, 'modelInfer', identity('7', [1.5, -2]));
    assert.equal(error, null);
    assert.equal(answer.id, '7');
    assert.deepEqual(floats(answer), [1.5, -2]);
    client.close();
  },

  async concurrent() {
    const client = connect();
    const outcomes = await Promise.all(
      Array.from({length: 100}, (_, i) => unary(client, 'modelInfer', identity(`${i}`, [i]))),
    );
    outcomes.forEach(({answer}, i) => assert.deepEqual(floats(answer), [i]));
    client.close();
  },

  async gzip() {
    const client = connect({'grpc.default_compression_algorithm': GZIP});
    const zeros = new Array(4096).fill(0);
    const {error, answer} = await unary(client, 'modelInfer', identity('', zeros));
    assert.equal(error, null);
    assert.deepEqual(floats(answer), zeros);
    client.close();
  },

  async errors() {
    const client = connect();
    const unknown = await unary(client, 'modelInfer', {...identity('', [1]), modelName: 'absent'});
    assert.equal(unknown.error.code, grpc.status.NOT_FOUND);
    assert.equal(unknown.error.details, "Request for unknown model: 'absent' is not found");
    const short = identity('', [1]);
    short.inputs[0].shape = [1, 2];
    const wrong = await unary(client, 'modelInfer', short);
    assert.equal(wrong.error.code, grpc.status.INVALID_ARGUMENT);
    assert.match(wrong.error.details, /byte size mismatch for input 'X'/);
    client.close();
  },

  async deadline() {
    const client = connect();
    const steps = Buffer.alloc(8);
    steps.writeBigInt64LE(1000n);
    const slow = {
      modelName: 'slow',
      inputs: [{name: 'X', datatype: 'INT64', shape: [1, 1]}],
      rawInputContents: [steps],
    };
    const works = async () => {
      const inTime = {deadline: Date.now() + 30_000};
      const {answer} = await unary(client, 'modelInfer', identity('', [1]), inTime);
      assert.deepEqual(floats(answer), [1]);
    };
    await works(); // it is connected now, so that the deadline passes at the server
    const {error} = await unary(client, 'modelInfer', slow, {deadline: Date.now() + 200});
    assert.equal(error.code, grpc.status.DEADLINE_EXCEEDED);
    await works();
    client.close();
  },

  async stream() {
    const client = connect();
    const stream = client.modelStreamInfer();
    const collected = collect(stream);
    for (let i = 0; i < 100; i += 1) {
      const request = identity(`${i}`, [i, -i]);
      stream.write(i === 50 ? {...request, modelName: 'absent'} : request);
    }
    stream.end();
    const {answers, status} = await collected;
    assert.equal(status.code, grpc.status.OK);
    assert.deepEqual(answers.map((a) => a.inferResponse.id), answers.map((_, i) => `${i}`));
    assert.equal(answers.length, 100);
    assert.equal(answers[50].errorMessage, "Request for unknown model: 'absent' is not found");
    assert.deepEqual(floats(answers[99].inferResponse), [99, -99]);
    client.close();
  },

  async cancelledStream() {
    const client = connect();
    const stream = client.modelStreamInfer();
    const collected = collect(stream);
    stream.write(identity('1', [1]));
    stream.once('data', () => stream.cancel());
    assert.equal((await collected).status.code, grpc.status.CANCELLED);
    assert.deepEqual(floats((await unary(client, 'modelInfer', identity('', [1]))).answer), [1]);
    client.close();
  },

  async health() {
    const {Health} = load('health.proto').grpc.health.v1;
    const client = new Health(address, grpc.credentials.createInsecure());
    assert.equal((await unary(client, 'check', {service: ''})).answer.status, 1);
    const watch = client.watch({service: 'simple'});
    const collected = collect(watch);
    watch.once('data', () => watch.cancel());
    const {answers, status} = await collected;
    assert.equal(answers[0].status, 1);
    assert.equal(status.code, grpc.status.CANCELLED);
    client.close();
  },
};

cases[caseName]().catch((error) => {
  console.error(error);
  process.exit(1);
});
