// Calls the billing API as the signed-in user: token, idempotency keys, retries, problems as errors.

const ATTEMPTS = 3;
const { apiPrefix, user } = document.body.dataset;
let token = null;

/** What went wrong, in the API's own words (RFC 9457). `status` is 0 when nothing answered. */
export class ApiError extends Error {
  constructor(status, problem) {
    super(problem.errors?.[0]?.message ?? problem.detail ?? problem.title);
    this.status = status;
    this.code = problem.code;
    this.retryable = problem.retryable;
  }
}

export const get = (path) => call(`${apiPrefix}${path}`, {});

/** One key for one wish of the user's: however often it is sent again, it happens once. */
export const post = (path, body = {}) =>
  call(`${apiPrefix}${path}`, {
    method: "POST",
    headers: { "Content-Type": "application/json", "Idempotency-Key": newKey() },
    body: JSON.stringify(body),
  });

/** The storefront's own server, which knows its visitor by cookie. */
export const getOwn = (path) => answer(path, {});
export const postOwn = (path) => answer(path, { method: "POST", headers: { "Idempotency-Key": newKey() } });

async function call(url, request) {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await answer(url, { ...request, headers: { ...request.headers, ...(await authorization()) } });
    } catch (error) {
      const expired = error.status === 401 && attempt === 1 && user;
      if (expired) token = null;
      else if (!error.retryable || attempt === ATTEMPTS) throw error;
      else await new Promise((resume) => setTimeout(resume, attempt * 500));
    }
  }
}

async function authorization() {
  if (!user) return {};
  token ??= (await getOwn("/demo/token")).token;
  return { Authorization: `Bearer ${token}` };
}

async function answer(url, request) {
  let response;
  try {
    response = await fetch(url, request);
  } catch {
    throw new ApiError(0, { detail: "The billing service can’t be reached. Is it running?", retryable: true });
  }
  if (response.ok) return response.json();
  const problem = await response.json().catch(() => ({ title: `The billing service answered ${response.status}.` }));
  throw new ApiError(response.status, problem);
}

// crypto.randomUUID exists on https and localhost alone; the demo may be looked at over a plain address.
function newKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
