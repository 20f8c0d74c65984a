/**
 * Draws a picture out of focus in WebGL 2, fast rather than exact: a gather of discs at half size, what lies in front
 * kept apart from what lies behind, and the sharp pixels of the picture as they are. Light is the square of a value.
 */

import { pixelsOf } from "./focus_files.js";

const HEAD = `#version 300 es
precision highp float;
precision highp int;
const float PI = 3.14159265;
uniform float plane, gain, sharp;
// Signed radius in px of the picture; above 0 before the plane of focus.
float radius(float value) {
  float apart = value - plane;
  return sign(apart) * max(abs(apart) - sharp, 0.0) * gain;
}
`;

const VERTEX = `#version 300 es
void main() {
  vec2 corner = vec2(gl_VertexID & 1, gl_VertexID >> 1) * 4.0 - 1.0;
  gl_Position = vec4(corner, 0, 1);
}`;

// Light and signed radius, in px of the half picture, of the nearest of four pixels and of those level with it.
const HALVE = `${HEAD}
uniform sampler2D scene;
out vec4 made;
void main() {
  ivec2 last = textureSize(scene, 0) - 1, corner = ivec2(gl_FragCoord.xy) * 2;
  float s[4]; vec3 light[4]; float nearest = -1e6;
  for (int i = 0; i < 4; i++) {
    ivec2 at = min(corner + ivec2(i & 1, i >> 1), last);
    vec4 x = texelFetch(scene, at, 0);
    s[i] = radius(x.a);
    light[i] = x.rgb * x.rgb;
    nearest = max(nearest, s[i]);
  }
  vec4 sum = vec4(0);
  for (int i = 0; i < 4; i++) sum += vec4(light[i], 1) * step(nearest - 1.0, s[i]);
  made = vec4(sum.rgb / sum.a, nearest / 2.0);
}`;

// The largest disc in front of the plane of focus in each tile of 16 px.
const TILES = `${HEAD}
uniform sampler2D half_;
out vec4 made;
void main() {
  ivec2 last = textureSize(half_, 0) - 1, corner = ivec2(gl_FragCoord.xy) * 16;
  float most = 0.0;
  for (int y = 0; y < 16; y++)
    for (int x = 0; x < 16; x++) most = max(most, texelFetch(half_, min(corner + ivec2(x, y), last), 0).a);
  made = vec4(most);
}`;

// The largest of those that reaches into a tile.
const REACH = `${HEAD}
uniform sampler2D tiles;
out vec4 made;
void main() {
  ivec2 last = textureSize(tiles, 0) - 1, here = ivec2(gl_FragCoord.xy);
  float most = 0.0;
  for (int y = -4; y <= 4; y++)
    for (int x = -4; x <= 4; x++) {
      float reach = texelFetch(tiles, clamp(here + ivec2(x, y), ivec2(0), last), 0).r;
      float gap = 16.0 * max(0.0, length(vec2(x, y)) - 1.5);
      if (reach + 1.0 > gap) most = max(most, reach);
    }
  made = vec4(most);
}`;

const GATHER = `${HEAD}
uniform sampler2D half_, reaches;
uniform int samples;
layout(location = 0) out vec4 front;
layout(location = 1) out vec4 back;
void main() {
  ivec2 here = ivec2(gl_FragCoord.xy);
  vec2 size = vec2(textureSize(half_, 0));
  vec4 y = texelFetch(half_, here, 0);
  float own = abs(y.a);
  float reach = max(own, texelFetch(reaches, here / 16, 0).r);
  front = vec4(0);
  vec4 rest = vec4(y.rgb, 1) * 1e-4;
  if (reach >= 0.25) {
    reach += 0.5;
    float each = PI * reach * reach / float(samples);
    float turned = 2.4 * float((here.x & 1) + 2 * (here.y & 1));
    vec2 way = vec2(cos(turned), sin(turned));
    // The golden angle.
    const mat2 turn = mat2(-0.73736888, 0.67549029, -0.67549029, -0.73736888);
    for (int i = 0; i < samples; i++) {
      float apart = reach * sqrt((float(i) + 0.5) / float(samples));
      way = turn * way;
      vec2 at = gl_FragCoord.xy + way * apart;
      if (any(lessThan(at, vec2(0))) || any(greaterThanEqual(at, size))) continue;
      vec4 x = texelFetch(half_, ivec2(at), 0);
      float nearer = clamp(2.0 * (x.a - y.a), -1.0, 1.0);
      float disc = nearer < 0.0 ? max(abs(x.a), own) : abs(x.a);
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
uniform float limit;
uniform bool overlay, plain;
out vec4 made;
void main() {
  // Rows of a picture go down, those of the screen up.
  ivec2 size = textureSize(scene, 0), here = ivec2(gl_FragCoord.x, float(size.y) - gl_FragCoord.y);
  vec2 at = (vec2(here) + 0.5) / vec2(size);
  vec4 own = texelFetch(scene, here, 0);
  vec3 colour = own.rgb;
  float r = abs(radius(own.a));
  vec4 front = plain ? vec4(0) : texture(fronts, at);
  float blurred = plain ? 0.0 : smoothstep(0.5, 1.5, r);
  if (blurred > 0.0 || front.a > 0.004) {
    vec4 back = texture(backs, at);
    vec3 light = mix(colour * colour, back.rgb / back.a, blurred);
    colour = sqrt(front.rgb + (1.0 - front.a) * light);
  }
  if (overlay && r <= limit) colour = mix(colour, vec3(0.1, 1.0, 0.35), 0.5);
  made = vec4(colour, 1);
}`;

// Samples of a disc: of what follows a change at once, as many as the time for a frame allows, and when all is at rest.
const QUICK = [8, 48];
const FRAME_MS = 22;
const FINE = 220;
const REST_MS = 150;

export class Preview {
  #programs = {};
  #textures = {};
  #targets = {};
  #size = null;
  #timer = 0;
  #settings = null;
  #samples = 24;

  /** @throws where the browser has no WebGL 2 that draws into half floats */
  constructor(canvas) {
    this.canvas = canvas;
    const gl = canvas.getContext("webgl2", { alpha: false, antialias: false, preserveDrawingBuffer: true });
    if (!gl?.getExtension("EXT_color_buffer_float")) throw new Error("no WebGL 2 with float colours");
    this.gl = gl;
    const shaders = { halve: HALVE, tiles: TILES, reach: REACH, gather: GATHER, combine: COMBINE };
    for (const [name, source] of Object.entries(shaders)) this.#programs[name] = this.#program(source);
  }

  /**
   * @param {ImageBitmap} picture
   * @param {{width: number, height: number, values: Float32Array} | null} map depth, 0 far to 1 near
   */
  setScene(picture, map) {
    const { gl } = this;
    const { width, height } = picture;
    const isNew = this.#size?.width !== width || this.#size.height !== height;
    this.#size = { width, height };
    Object.assign(this.canvas, this.#size);
    const colours = pixelsOf(picture, width, height);
    const texels = Float32Array.from(colours, (value) => value / 255);
    for (let y = 0, i = 3; y < height; y++) {
      const row = map && Math.floor(((y + 0.5) * map.height) / height) * map.width;
      for (let x = 0; x < width; x++, i += 4) texels[i] = map ? map.values[row + Math.floor(((x + 0.5) * map.width) / width)] : 0;
    }
    this.#texture("scene", width, height, gl.RGBA32F, gl.RGBA, gl.FLOAT, texels);
    if (!isNew) return;
    const half = [Math.ceil(width / 2), Math.ceil(height / 2)];
    const tiles = half.map((side) => Math.ceil(side / 16));
    this.#target("halve", half, ["half_"]);
    this.#target("tiles", tiles, ["tiles"]);
    this.#target("reach", tiles, ["reaches"]);
    this.#target("gather", half, ["fronts", "backs"]);
  }

  /** Draw with `settings`: {plane, gain, sharp, limit, overlay, plain}; radii in px of this picture. */
  draw(settings) {
    if (!this.#size) return;
    this.#settings = settings;
    const start = performance.now();
    this.#pass(Math.round(this.#samples));
    if (!settings.plain) {
      // Reading waits for what was drawn.
      this.gl.readPixels(0, 0, 1, 1, this.gl.RGBA, this.gl.UNSIGNED_BYTE, new Uint8Array(4));
      const wanted = (this.#samples * FRAME_MS) / Math.max(performance.now() - start, 1);
      this.#samples = Math.min(Math.max((this.#samples + wanted) / 2, QUICK[0]), QUICK[1]);
    }
    clearTimeout(this.#timer);
    if (!settings.plain) this.#timer = setTimeout(() => this.#pass(FINE), REST_MS);
  }

  dispose() {
    clearTimeout(this.#timer);
    this.gl.getExtension("WEBGL_lose_context")?.loseContext();
  }

  #pass(samples) {
    const { gl } = this;
    if (!this.#settings.plain) {
      this.#run("halve");
      this.#run("tiles");
      this.#run("reach");
      this.#run("gather", { samples });
    }
    this.#run("combine");
  }

  #run(name, { samples } = {}) {
    const { gl } = this;
    const { program, places } = this.#programs[name];
    const { frame = null, width, height } = this.#targets[name] ?? this.#size;
    gl.bindFramebuffer(gl.FRAMEBUFFER, frame);
    gl.viewport(0, 0, width, height);
    gl.useProgram(program);
    let unit = 0;
    for (const [place, at] of Object.entries(places)) {
      const value = place === "samples" ? samples : this.#settings[place];
      if (place in this.#textures) {
        gl.activeTexture(gl.TEXTURE0 + unit);
        gl.bindTexture(gl.TEXTURE_2D, this.#textures[place]);
        gl.uniform1i(at, unit++);
      } else if (place === "samples" || typeof value === "boolean") gl.uniform1i(at, Number(value));
      else gl.uniform1f(at, value);
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
    for (let i = 0; i < gl.getProgramParameter(program, gl.ACTIVE_UNIFORMS); i++) {
      const { name } = gl.getActiveUniform(program, i);
      places[name] = gl.getUniformLocation(program, name);
    }
    return { program, places };
  }

  #texture(name, width, height, internal, format, type, pixels) {
    const { gl } = this;
    gl.deleteTexture(this.#textures[name] ?? null);
    const texture = (this.#textures[name] = gl.createTexture());
    gl.activeTexture(gl.TEXTURE0);
    gl.bindTexture(gl.TEXTURE_2D, texture);
    gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
    gl.texImage2D(gl.TEXTURE_2D, 0, internal, width, height, 0, format, type, pixels);
    const filter = internal === gl.RGBA16F ? gl.LINEAR : gl.NEAREST;
    for (const way of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, way, filter);
    for (const way of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T]) gl.texParameteri(gl.TEXTURE_2D, way, gl.CLAMP_TO_EDGE);
    return texture;
  }

  #target(name, [width, height], textures) {
    const { gl } = this;
    gl.deleteFramebuffer(this.#targets[name]?.frame ?? null);
    const frame = gl.createFramebuffer();
    // Half floats can be filtered everywhere; whole ones are read faster without a GPU.
    const kind = name === "gather" ? [gl.RGBA16F, gl.RGBA, gl.HALF_FLOAT] : [gl.RGBA32F, gl.RGBA, gl.FLOAT];
    const made = textures.map((each) => this.#texture(each, width, height, ...kind, null));
    gl.bindFramebuffer(gl.FRAMEBUFFER, frame);
    const places = made.map((texture, i) => {
      gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0 + i, gl.TEXTURE_2D, texture, 0);
      return gl.COLOR_ATTACHMENT0 + i;
    });
    gl.drawBuffers(places);
    this.#targets[name] = { frame, width, height };
  }
}
