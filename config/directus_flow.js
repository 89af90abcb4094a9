// For the "Run Script" operation of a Directus Flow (docs/directus.md, "Notices from a Flow"): signs what happened for the sidecar.
// The operation after it is a "Webhook / Request URL" that sends what this returns. Scripts of Flows have no crypto module, so the
// HMAC-SHA-256 (FIPS 198-1, FIPS 180-4) stands here.

module.exports = async function (data) {
	const { SIDECAR_NOTICE_SECRET: secret, SIDECAR_SERVICE_USER: service } = data.$env;
	// The sidecar's own writes are no news to it. To throw ends the Flow here.
	if (service && data.$accountability && data.$accountability.user === service) throw new Error('written by the sidecar');
	const { event, collection, key, keys } = data.$trigger;
	const body = JSON.stringify({ event, collection, keys: (keys || [key]).map(String) });
	const time = (Date.now() / 1000).toFixed(3);
	return { body, time, signature: hex(hmac(utf8(secret), utf8(`${time}.${body}`))) };
};

function utf8(text) {
	return Array.from(unescape(encodeURIComponent(text)), (each) => each.charCodeAt(0));
}

function hex(bytes) {
	return bytes.map((each) => each.toString(16).padStart(2, '0')).join('');
}

function hmac(key, message) {
	const block = (key.length > 64 ? sha256(key) : key).concat(Array(64).fill(0)).slice(0, 64);
	const inner = sha256(block.map((each) => each ^ 0x36).concat(message));
	return sha256(block.map((each) => each ^ 0x5c).concat(inner));
}

function sha256(message) {
	const primes = [];
	for (let n = 2; primes.length < 64; n++) if (primes.every((each) => n % each)) primes.push(n);
	const fraction = (root) => ((root - Math.floor(root)) * 2 ** 32) | 0;
	const rounds = primes.map((each) => fraction(Math.cbrt(each)));
	const state = primes.slice(0, 8).map((each) => fraction(Math.sqrt(each)));
	const rotate = (value, by) => (value >>> by) | (value << (32 - by));

	const bits = message.length * 8;
	const padded = message.concat([0x80], Array((119 - (message.length % 64)) % 64).fill(0));
	for (const each of [Math.floor(bits / 2 ** 32), bits >>> 0]) padded.push(each >>> 24, (each >>> 16) & 255, (each >>> 8) & 255, each & 255);

	for (let at = 0; at < padded.length; at += 64) {
		const words = [];
		for (let i = 0; i < 64; i++) {
			if (i < 16) {
				const from = at + i * 4;
				words[i] = (padded[from] << 24) | (padded[from + 1] << 16) | (padded[from + 2] << 8) | padded[from + 3];
			} else {
				const [x, y] = [words[i - 15], words[i - 2]];
				const s0 = rotate(x, 7) ^ rotate(x, 18) ^ (x >>> 3);
				const s1 = rotate(y, 17) ^ rotate(y, 19) ^ (y >>> 10);
				words[i] = (words[i - 16] + s0 + words[i - 7] + s1) | 0;
			}
		}
		let [a, b, c, d, e, f, g, h] = state;
		for (let i = 0; i < 64; i++) {
			const s1 = rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25);
			const first = (h + s1 + ((e & f) ^ (~e & g)) + rounds[i] + words[i]) | 0;
			const s0 = rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22);
			const second = (s0 + ((a & b) ^ (a & c) ^ (b & c))) | 0;
			[h, g, f, e, d, c, b, a] = [g, f, e, (d + first) | 0, c, b, a, (first + second) | 0];
		}
		[a, b, c, d, e, f, g, h].forEach((each, i) => (state[i] = (state[i] + each) | 0));
	}
	return state.flatMap((each) => [each >>> 24, (each >>> 16) & 255, (each >>> 8) & 255, each & 255]);
}
