// A complete client of the Open Inference Protocol with grpc-js: client.js ADDRESS [MODEL]
//
// ADDRESS is HOST:PORT or unix:PATH. MODEL adds and subtracts two INT32 tensors, as Triton's
// `simple` does: OUTPUT0 = INPUT0 + INPUT1, OUTPUT1 = INPUT0 - INPUT1. Prints a line a step; the
// exit code is 0 only if every answer was right.

import {once} from 'node:events';
import {readFileSync} from 'node:fs';
import {fileURLToPath} from 'node:url';
import {parseArgs} from 'node:util';

import grpc from '@grpc/grpc-js';
import protoLoader from '@grpc/proto-loader';

const PROTOS = fileURLToPath(new URL('../../protos', import.meta.url)); // where you keep yours
const DEADLINE_MS = 10_000;
const IN_FLIGHT = 100;
const MAX_MESSAGE_BYTES = 64 * 1024 * 1024; // gRPC receives no more than 4 MiB by default
const UNKNOWN_MODEL = 'no_such_model';

class WrongAnswer extends Error {}

async function main() {
  const {address, model, ca} = parseArguments();
  const {grpc: {health}, inference} = loadServices();
  const credentials = ca ? grpc.credentials.createSsl(ca) : grpc.credentials.createInsecure();
  const options = {'grpc.max_receive_message_length': MAX_MESSAGE_BYTES};
  const client = new inference.GRPCInferenceService(address, credentials, options);
  const healthClient = new health.v1.Health(address, credentials, options);
  try {
    await checkHealth(healthClient);
    await showServer(client);
    const shape = await showModel(client, model);
    await inferOnce(client, model, shape);
    await inferStream(client, model, shape);
    await refusedCall(client, shape);
    await refusedInStream(client, model, shape);
  } finally {
    healthClient.close();
    client.close();
  }
}

// The services of the .proto files, made while the program runs: there is nothing to generate.
function loadServices() {
  const files = ['grpc_service.proto', 'health.proto'];
  const definition = protoLoader.loadSync(files, {
    includeDirs: [PROTOS],
    keepCase: true, // field names as in the .proto files
    longs: Number, // int64, as in shapes, is text by default
    enums: String,
    defaults: true,
    oneofs: true,
  });
  return grpc.loadPackageDefinition(definition);
}

// Ask the standard health service; the empty name stands for the server as a whole.
async function checkHealth(client) {
  const {status} = await call(client, 'Check', {service: ''});
  ensure(status === 'SERVING', `health is ${status}, expected SERVING`);
  console.log(`health: ${status}`);
}

async function showServer(client) {
  const {name, version} = await call(client, 'ServerMetadata', {});
  console.log(`server: ${name} ${version}`);
}

// Print the signature of the model and return the shape of its inputs, with a batch of 1.
async function showModel(client, model) {
  const {name, inputs, outputs} = await call(client, 'ModelMetadata', {name: model});
  const taken = inputs.map((tensor) => `${tensor.name} ${tensor.datatype}`).join(', ');
  const wanted = 'INPUT0 INT32, INPUT1 INT32';
  ensure(taken === wanted, `${model} takes ${taken}, this client knows ${wanted}`);
  console.log(`model: ${name}: ${signature(inputs)} -> ${signature(outputs)}`);
  return inputs[0].shape.map(Math.abs); // -1 is any batch size
}

// Send one request and check every value of the answer.
async function inferOnce(client, model, shape) {
  check(await call(client, 'ModelInfer', request('single', model, shape, 0)), 'single', shape, 0);
  const count = size(shape);
  console.log(`unary: ${count} sums and ${count} differences are right`);
}

// Send many requests on one stream without waiting, and read the answers as they come.
async function inferStream(client, model, shape) {
  const stream = openStream(client);
  async function send() {
    for (let number = 0; number < IN_FLIGHT; number++) {
      const more = stream.write(request(String(number), model, shape, number));
      if (!more) await once(stream, 'drain'); // the server is busy: keep no more in memory
    }
    stream.end();
  }
  async function receive() {
    let number = 0;
    for await (const {error_message: refusal, infer_response: response} of stream) {
      ensure(!refusal, `request ${number}: ${refusal}`);
      check(response, String(number), shape, number);
      number++;
    }
    return number;
  }
  const [, count] = await Promise.all([send(), receive()]);
  ensure(count === IN_FLIGHT, `${count} answers, expected ${IN_FLIGHT}`);
  console.log(`stream: ${count} answers in order, all right`);
}

// Ask for a model that is not there: a call fails with a code and a text.
async function refusedCall(client, shape) {
  try {
    await call(client, 'ModelInfer', request('single', UNKNOWN_MODEL, shape, 0));
  } catch (error) {
    if (error.code !== grpc.status.NOT_FOUND) throw error;
    console.log(`refused call: ${grpc.status[error.code]}: ${error.details}`);
    return;
  }
  throw new WrongAnswer(`${UNKNOWN_MODEL} gave an answer, expected NOT_FOUND`);
}

// Ask for it in a stream: the error is a message there, and the stream stays open.
async function refusedInStream(client, model, shape) {
  const stream = openStream(client);
  const answers = stream[Symbol.asyncIterator]();
  stream.write(request('bad', UNKNOWN_MODEL, shape, 1));
  const {value: refusal} = await answers.next();
  ensure(refusal?.infer_response?.id === 'bad', `the refusal has id ${refusal?.infer_response?.id}`);
  ensure(refusal.error_message, `${UNKNOWN_MODEL} gave no error in the stream`);
  console.log(`refused in a stream: ${refusal.error_message}`);
  stream.write(request('good', model, shape, 2));
  const {value: answer} = await answers.next();
  check(answer?.infer_response, 'good', shape, 2);
  stream.end(); // no more: the server ends the stream when all are answered
  ensure((await answers.next()).done, 'the stream gave a third answer');
  console.log('the stream went on');
}

// A request with raw tensors: one little-endian block of bytes an input, in order.
function request(id, model, shape, seed) {
  const {left, right} = operands(shape, seed);
  return {
    model_name: model,
    id,
    inputs: ['INPUT0', 'INPUT1'].map((name) => ({name, datatype: 'INT32', shape})),
    raw_input_contents: [toBytes(left), toBytes(right)],
  };
}

// Compare an answer with what the model is known to compute.
function check(response, id, shape, seed) {
  ensure(response?.id === id, `the answer has id ${response?.id}, expected ${id}`);
  const names = response.outputs.map((tensor) => tensor.name);
  ensure(
    names.length === 2 && response.raw_output_contents.length === 2,
    `${names.length} outputs, ${response.raw_output_contents.length} with raw contents`,
  );
  const {left, right} = operands(shape, seed);
  const expected = {
    OUTPUT0: left.map((value, index) => value + right[index]),
    OUTPUT1: left.map((value, index) => value - right[index]),
  };
  for (const [name, values] of Object.entries(expected)) {
    const got = fromBytes(response.raw_output_contents[names.indexOf(name)] ?? Buffer.alloc(0));
    ensure(String(got) === String(values), `${id}: ${name} is ${got}, expected ${values}`);
  }
}

// INPUT0 and INPUT1 of a request: numbers that differ between seeds.
function operands(shape, seed) {
  const index = Array.from({length: size(shape)}, (_, position) => position);
  return {left: index.map((i) => i + seed), right: index.map((i) => i * i - 50)};
}

function toBytes(values) {
  const bytes = Buffer.alloc(4 * values.length);
  values.forEach((value, index) => bytes.writeInt32LE(value, 4 * index));
  return bytes;
}

// Not `new Int32Array(bytes.buffer)`: a Buffer is a window on a larger, unaligned block.
function fromBytes(bytes) {
  return Array.from({length: bytes.length / 4}, (_, index) => bytes.readInt32LE(4 * index));
}

function signature(tensors) {
  return tensors.map(({name, datatype, shape}) => `${name} ${datatype}[${shape}]`).join(', ');
}

const size = (shape) => shape.reduce((product, extent) => product * extent, 1);

const deadline = () => Date.now() + DEADLINE_MS;

// A loop over the stream that ends early, by an error, closes it here; the call is to end, too.
function openStream(client) {
  const stream = client.ModelStreamInfer({deadline: deadline()});
  stream.on('close', () => stream.cancel());
  return stream;
}

// A unary call as a promise.
function call(client, method, message) {
  return new Promise((resolve, reject) => {
    client[method](message, {deadline: deadline()}, (error, answer) => {
      if (error) reject(error);
      else resolve(answer);
    });
  });
}

function ensure(isTrue, otherwise) {
  if (!isTrue) throw new WrongAnswer(otherwise);
}

function parseArguments() {
  const {values, positionals} = parseArgs({
    options: {ca: {type: 'string'}}, // TLS: PEM file of the authority
    allowPositionals: true,
  });
  if (positionals.length < 1 || positionals.length > 2) {
    console.error('usage: client.js [--ca FILE] ADDRESS [MODEL]');
    process.exit(2);
  }
  const [address, model = 'simple'] = positionals;
  return {address, model, ca: values.ca && readFileSync(values.ca)};
}

try {
  await main();
} catch (error) {
  const isStatus = error.code in grpc.status;
  console.error(`error: ${isStatus ? `${grpc.status[error.code]}: ${error.details}` : error.message}`);
  process.exitCode = 1;
}
