/**
 * Draws a picture out of focus in WebGL 2, fast rather than exact: a gather of discs in a smaller copy, what lies in
 * front apart from what lies behind, and sharp pixels as they are. Light is the square of a value.
 */

import { pixelsOf } from "./focus_files.js";

// Side in px, a power of two, of the tiles for which it is known which discs reach them.
const TILE = 32;
// Depths that are no further apart than this, of 0 to 1, count as one surface.
const LEVEL = 1 / 32;

// Whole floats and `textureLod`: without a GPU twice as fast as half floats and `texelFetch`.
const HEAD = `#version 300 es
precision highp float;
uniform float plane, gain, sharp;
// Signed radius in px of the picture; above 0 before the plane of focus.
float radius(float value) {
  float apart = value - plane;
  return (apart - clamp(apart, -sharp, sharp)) * gain;
}
`;

const VERTEX = `#version 300 es
void main() {
  vec2 corner = vec2(gl_VertexID & 1, gl_VertexID >> 1) * 4.0 - 1.0;
  gl_Position = vec4(corner, 0, 1);
}`;

const GATHER = `${HEAD}
const float PI = 3.14159265;
uniform sampler2D copy, reaches;
uniform float shrunk, samples;
layout(location = 0) out vec4 front;
layout(location = 1) out vec4 back;
void main() {
  vec2 texel = 1.0 / vec2(textureSize(copy, 0));
  vec4 y = textureLod(copy, gl_FragCoord.xy * texel, 0.0);
  float mine = radius(y.a) / shrunk, own = abs(mine);
  float reach = max(own, texelFetch(reaches, ivec2(gl_FragCoord.xy * shrunk) / ${TILE}, 0).r / shrunk);
  front = vec4(0);
  vec4 rest = vec4(y.rgb, 1) * 1e-4;
  if (reach >= 0.25) {
    reach += 0.5;
    // No more than a small disc has pixels.
    float count = min(samples, floor(3.0 * reach * reach) + 6.0);
    float each = PI * reach * reach / count;
    vec2 way = vec2(1, 0);
    // The golden angle.
    const mat2 turn = mat2(-0.73736888, 0.67549029, -0.67549029, -0.73736888);
    for (float i = 0.5; i < count; i++) {
      float apart = reach * sqrt(i / count);
      way = turn * way;
      vec4 x = textureLod(copy, (gl_FragCoord.xy + way * apart) * texel, 0.0);
      float signed_ = radius(x.a) / shrunk;
      float nearer = clamp(2.0 * (signed_ - mine), -1.0, 1.0);
      float disc = nearer < 0.0 ? max(abs(signed_), own) : abs(signed_);
      float k = clamp(disc + 0.5 - apart, 0.0, 1.0) * each / max(PI * disc * disc, 1.0);
      float before = max(nearer, 0.0) * k;
      front += vec4(x.rgb, 1) * before;
      rest += vec4(x.rgb, 1) * (k - before);
    }
    front /= max(front.a, 1.0);
  }
  // A sharp pixel has no say in the blurred ones beside it.
  back = vec4(rest.rgb / rest.a, 1) * max(smoothstep(0.25, 0.75, own), 1e-3);
}`;

const COMBINE = `${HEAD}
uniform sampler2D scene, fronts, backs;
uniform float limit, overlay, plain;
out vec4 made;
void main() {
  // Rows of a picture go down, those of the screen up.
  vec2 at = gl_FragCoord.xy / vec2(textureSize(scene, 0));
  at.y = 1.0 - at.y;
  vec4 own = textureLod(scene, at, 0.0);
  vec3 colour = own.rgb;
  float r = abs(radius(own.a));
  vec4 front = textureLod(fronts, at, 0.0), back = textureLod(backs, at, 0.0);
  float blurred = smoothstep(0.5, 1.5, r);
  if (plain == 0.0 && (blurred > 0.0 || front.a > 0.004)) {
    vec3 light = mix(colour * colour, back.rgb / back.a, blurred);
    colour = sqrt(front.rgb + (1.0 - front.a) * light);
  }
  if (overlay > 0.0 && r <= limit) colour = mix(colour, vec3(0.1, 1.0, 0.35), 0.5);
  made = vec4(colour, 1);
}`;

// What follows a change at once: as many samples of a disc as the time for a frame allows, in a copy of a quarter.
const QUICK = { shrunk: 4, least: 12, most: 96 };
const FRAME_MS = 20;
// What is drawn when all is at rest.
const FINE = { shrunk: 2, samples: 220 };
const REST_MS = 150;

export class Preview {
  #programs = {};
  #textures = {};
  #copies = {};
  #size = null;
  #tiles = null;
  #timer = 0;
  #settings = null;
  #samples = 32;

  /** @throws where the browser has no WebGL 2 that draws into floats */
  constructor(canvas) {
    this.canvas = canvas;
    const gl = canvas.getContext("webgl2", { alpha: false, antialias: false, preserveDrawingBuffer: true });
    if (!gl?.getExtension("EXT_color_buffer_float")) throw new Error("no WebGL 2 with float colours");
    this.gl = gl;
    this.#programs = { gather: this.#program(GATHER), combine: this.#program(COMBINE) };
  }

  /**
   * @param {ImageBitmap} picture
   * @param {{width: number, height: number, values: Float32Array} | null} map depth, 0 far to 1 near
   */
  setScene(picture, map) {
    const { gl } = this;
    const { width, height } = picture;
    this.#size = { width, height };
    Object.assign(this.canvas, this.#size);
    const texels = Float32Array.from(pixelsOf(picture, width, height), (value) => value / 255);
    for (let i = 0; i < width * height; i++) {
      const [x, y] = [((i % width) + 0.5) / width, (Math.floor(i / width) + 0.5) / height];
      texels[4 * i + 3] = map?.values[Math.floor(y * map.height) * map.width + Math.floor(x * map.width)] ?? 0;
    }
    this.#texture("scene", this.#size, gl.RGBA32F, gl.RGBA, texels);
    let copy = { ...this.#size, texels: texels.map((value, i) => (i % 4 === 3 ? value : value * value)) };
    for (let shrunk = 2; shrunk <= TILE; shrunk *= 2) {
      copy = halved(copy);
      if (shrunk <= QUICK.shrunk) this.#copies[shrunk] = this.#copy(shrunk, copy);
    }
    this.#tiles = copy;
  }

  /** `settings`: {plane, gain, sharp, limit, overlay, plain}; radii in px of this picture. */
  draw(settings) {
    if (!this.#size) return;
    this.#settings = settings;
    clearTimeout(this.#timer);
    if (settings.plain) return void this.#blur(FINE);
    this.#reach(settings);
    const start = performance.now();
    this.#blur({ ...QUICK, samples: Math.round(this.#samples) });
    // Reading waits for what was drawn.
    this.gl.readPixels(0, 0, 1, 1, this.gl.RGBA, this.gl.UNSIGNED_BYTE, new Uint8Array(4));
    const wanted = (this.#samples * FRAME_MS) / Math.max(performance.now() - start, 1);
    this.#samples = Math.min(Math.max((this.#samples + wanted) / 2, QUICK.least), QUICK.most);
    this.#timer = setTimeout(() => this.#blur(FINE), REST_MS);
  }

  dispose() {
    clearTimeout(this.#timer);
    this.gl.getExtension("WEBGL_lose_context")?.loseContext();
  }

  /** The largest disc, of those in front of the plane of focus, that reaches into each tile. */
  #reach({ plane, sharp, gain }) {
    const { width, height, texels } = this.#tiles;
    const made = new Float32Array(width * height);
    for (let tile = 0; tile < made.length; tile++) {
      const radius = Math.max(texels[4 * tile + 3] - plane - sharp, 0) * gain;
      const far = Math.ceil(radius / TILE) + 1;
      const [column, row] = [tile % width, Math.floor(tile / width)];
      for (let y = Math.max(row - far, 0); y <= Math.min(row + far, height - 1); y++) {
        for (let x = Math.max(column - far, 0); x <= Math.min(column + far, width - 1); x++) {
          const gap = TILE * (Math.hypot(x - column, y - row) - 1.5);
          if (radius + 2 > gap) made[y * width + x] = Math.max(made[y * width + x], radius);
        }
      }
    }
    this.#texture("reaches", this.#tiles, this.gl.R32F, this.gl.RED, made);
  }

  #blur({ shrunk, samples }) {
    const { frame, size, textures } = this.#copies[shrunk];
    const given = { ...this.#textures, ...textures, ...this.#settings, shrunk, samples };
    if (!given.plain) this.#run("gather", frame, size, given);
    this.#run("combine", null, this.#size, given);
  }

  #run(name, frame, { width, height }, given) {
    const { gl } = this;
    const { program, places } = this.#programs[name];
    gl.bindFramebuffer(gl.FRAMEBUFFER, frame);
    gl.viewport(0, 0, width, height);
    gl.useProgram(program);
    let unit = 0;
    for (const [place, at] of Object.entries(places)) {
      const value = given[place];
      if (value instanceof WebGLTexture) {
        gl.activeTexture(gl.TEXTURE0 + unit);
        gl.bindTexture(gl.TEXTURE_2D, value);
        gl.uniform1i(at, unit++);
      } else gl.uniform1f(at, Number(value));
    }
    gl.drawArrays(gl.TRIANGLES, 0, 3);
  }

  #program(fragment) {
    const { gl } = this;
    const program = gl.createProgram();
    for (const [type, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, fragment]]) {
      const shader = gl.createShader(type);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(program));
    const places = {};
    for (let i = gl.getProgramParameter(program, gl.ACTIVE_UNIFORMS); i--; ) {
      const { name } = gl.getActiveUniform(program, i);
      places[name] = gl.getUniformLocation(program, name);
    }
    return { program, places };
  }

  #texture(name, { width, height }, internal, format, pixels, type = this.gl.FLOAT, filter = this.gl.NEAREST) {
    const { gl } = this;
    gl.deleteTexture(this.#textures[name] ?? null);
    const texture = (this.#textures[name] = gl.createTexture());
    gl.activeTexture(gl.TEXTURE0);
    gl.bindTexture(gl.TEXTURE_2D, texture);
    gl.texImage2D(gl.TEXTURE_2D, 0, internal, width, height, 0, format, type, pixels);
    for (const way of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, way, filter);
    for (const way of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T]) gl.texParameteri(gl.TEXTURE_2D, way, gl.CLAMP_TO_EDGE);
    return texture;
  }

  /** A smaller copy of the scene, and what is drawn at its size. */
  #copy(shrunk, { texels, ...size }) {
    const { gl } = this;
    gl.deleteFramebuffer(this.#copies[shrunk]?.frame ?? null);
    const copy = this.#texture(`copy${shrunk}`, size, gl.RGBA32F, gl.RGBA, texels);
    // Half floats can be filtered everywhere.
    const kind = gl.getExtension("OES_texture_float_linear") ? [gl.RGBA32F, gl.FLOAT] : [gl.RGBA16F, gl.HALF_FLOAT];
    const frame = gl.createFramebuffer();
    gl.bindFramebuffer(gl.FRAMEBUFFER, frame);
    const [fronts, backs] = [0, 1].map((i) => {
      const texture = this.#texture(`drawn${shrunk}${i}`, size, kind[0], gl.RGBA, null, kind[1], gl.LINEAR);
      gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0 + i, gl.TEXTURE_2D, texture, 0);
      return texture;
    });
    gl.drawBuffers([gl.COLOR_ATTACHMENT0, gl.COLOR_ATTACHMENT1]);
    return { frame, size, textures: { copy, fronts, backs } };
  }
}

/** Half the size: light and depth of the nearest of four pixels and of those level with it. */
function halved({ width, height, texels }) {
  const half = { width: Math.ceil(width / 2), height: Math.ceil(height / 2) };
  const made = new Float32Array(4 * half.width * half.height);
  for (let i = 0; i < made.length; i += 4) {
    const [x, y] = [2 * ((i / 4) % half.width), 2 * Math.floor(i / 4 / half.width)];
    const four = [0, 1, 2, 3].map((k) => 4 * (Math.min(y + (k >> 1), height - 1) * width + Math.min(x + (k & 1), width - 1)));
    const nearest = Math.max(...four.map((at) => texels[at + 3]));
    const level = four.filter((at) => texels[at + 3] >= nearest - LEVEL);
    for (let c = 0; c < 3; c++) made[i + c] = level.reduce((sum, at) => sum + texels[at + c], 0) / level.length;
    made[i + 3] = nearest;
  }
  return { ...half, texels: made };
}
