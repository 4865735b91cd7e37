/** Two ways to paint points: WebGL, and a plain canvas where there is none. Both paint the first n of them. */

const VERTEX = `#version 300 es
in vec2 position;
in float number;
uniform vec2 centre, scale;
uniform float size;
out float colour;
void main() {
  gl_Position = vec4((position - centre) * scale, 0.0, 1.0);
  gl_PointSize = size;
  colour = number;
}`;
const FRAGMENT = `#version 300 es
precision highp float;
in float colour;
uniform sampler2D colours;
uniform float opacity, size;
out vec4 painted;
void main() {
  float edge = size * (0.5 - length(gl_PointCoord - 0.5));
  float share = opacity * (size < 3.0 ? 1.0 : clamp(edge + 0.5, 0.0, 1.0));
  if (share <= 0.0) discard;
  painted = vec4(texture(colours, vec2((colour * 255.0 + 0.5) / 256.0, 0.5)).rgb * share, share);
}`;

/**
 * Make the better painter that this browser has.
 * @param {HTMLCanvasElement} canvas
 * @param {?string} wanted `webgl` or `canvas`, whichever is better.
 */
export function painterFor(canvas, wanted) {
  const options = { alpha: true, antialias: false, premultipliedAlpha: true };
  const gl = wanted === "webgl" || (wanted !== "canvas" && hasCard()) ? canvas.getContext("webgl2", options) : null;
  return gl ? new GlPainter(gl) : new PlainPainter(canvas.getContext("2d"));
}

/** Whether a graphics card would do it: WebGL that is computed without one is far slower than a plain canvas. */
function hasCard() {
  const gl = document.createElement("canvas").getContext("webgl2"), told = gl?.getExtension("WEBGL_debug_renderer_info");
  const name = told ? gl.getParameter(told.UNMASKED_RENDERER_WEBGL) : "";
  gl?.getExtension("WEBGL_lose_context")?.loseContext();
  return gl !== null && !/swiftshader|llvmpipe|software|basic render/i.test(name);
}

class GlPainter {
  kind = "webgl";

  constructor(gl) {
    this.gl = gl;
    const program = this.program = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    gl.useProgram(program);
    this.at = Object.fromEntries(["centre", "scale", "size", "opacity"].map((name) => [name, gl.getUniformLocation(program, name)]));
    this.positions = gl.createBuffer();
    this.numbers = gl.createBuffer();
    gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
    for (const name of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, name, gl.NEAREST);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
  }

  /** Make room for so many points. */
  reserve(n) {
    const { gl } = this;
    gl.bindBuffer(gl.ARRAY_BUFFER, this.positions);
    gl.bufferData(gl.ARRAY_BUFFER, 8 * n, gl.STATIC_DRAW);
    gl.enableVertexAttribArray(this.#attribute("position"));
    gl.vertexAttribPointer(this.#attribute("position"), 2, gl.FLOAT, false, 0, 0);
    gl.bindBuffer(gl.ARRAY_BUFFER, this.numbers);
    gl.bufferData(gl.ARRAY_BUFFER, n, gl.STATIC_DRAW);
    gl.enableVertexAttribArray(this.#attribute("number"));
    gl.vertexAttribPointer(this.#attribute("number"), 1, gl.UNSIGNED_BYTE, true, 0, 0);
  }

  place(start, positions) {
    this.gl.bindBuffer(this.gl.ARRAY_BUFFER, this.positions);
    this.gl.bufferSubData(this.gl.ARRAY_BUFFER, 8 * start, positions);
  }

  number(start, numbers) {
    this.gl.bindBuffer(this.gl.ARRAY_BUFFER, this.numbers);
    this.gl.bufferSubData(this.gl.ARRAY_BUFFER, start, numbers);
  }

  colours(table) {
    const { gl } = this;
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, 256, 1, 0, gl.RGBA, gl.UNSIGNED_BYTE, table);
  }

  paint(n, { centre, scale, widthPixels, heightPixels, sizePixels, opacity }) {
    const { gl } = this;
    gl.viewport(0, 0, widthPixels, heightPixels);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.uniform2f(this.at.centre, centre.x, centre.y);
    gl.uniform2f(this.at.scale, 2 * scale / widthPixels, 2 * scale / heightPixels);
    gl.uniform1f(this.at.size, sizePixels);
    gl.uniform1f(this.at.opacity, opacity);
    gl.drawArrays(gl.POINTS, 0, n);
  }

  release() {
    this.gl.getExtension("WEBGL_lose_context")?.loseContext();
  }

  #attribute(name) {
    return this.gl.getAttribLocation(this.program, name);
  }
}

class PlainPainter {
  kind = "canvas";

  constructor(context) {
    this.context = context;
  }

  reserve(n) {
    this.xy = new Float32Array(2 * n);
    this.numbers = new Uint8Array(n);
  }

  place(start, positions) {
    this.xy.set(positions, 2 * start);
  }

  number(start, numbers) {
    this.numbers.set(numbers, start);
  }

  colours(table) {
    this.table = new Uint32Array(table.slice().buffer);
  }

  paint(n, { centre, scale, widthPixels, heightPixels, sizePixels }) {
    const image = this.context.createImageData(widthPixels, heightPixels), pixels = new Uint32Array(image.data.buffer);
    const side = Math.max(1, Math.round(sizePixels)), { xy, numbers, table } = this;
    for (let at = 0; at < n; at += 1) {
      const left = Math.round((xy[2 * at] - centre.x) * scale + widthPixels / 2 - side / 2);
      const top = Math.round((centre.y - xy[2 * at + 1]) * scale + heightPixels / 2 - side / 2);
      if (left < 0 || top < 0 || left + side > widthPixels || top + side > heightPixels) continue;
      const colour = table[numbers[at]];
      for (let row = top; row < top + side; row += 1) pixels.fill(colour, row * widthPixels + left, row * widthPixels + left + side);
    }
    this.context.putImageData(image, 0, 0);
  }

  release() {}
}
