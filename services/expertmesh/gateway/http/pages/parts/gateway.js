// Asking the gateway with the key of this tab. Knows keys and errors, not what is asked.
const KEY_NAME = "expertmesh-api-key";

// The gateway wants a key, or another one.
class KeyError extends Error {}

// The reply to a request, as of fetch; KeyError, or an Error that says in words for people why there is none.
async function ask(path, options = {}) {
  const key = sessionStorage.getItem(KEY_NAME);
  const headers = key ? { ...options.headers, Authorization: `Bearer ${key}` } : options.headers;
  const reply = await fetch(path, { ...options, headers }).catch((error) => {
    throw error instanceof TypeError ? new Error("the gateway cannot be reached") : error;
  });
  if (reply.status === 401) {
    sessionStorage.removeItem(KEY_NAME);
    throw new KeyError(key ? "This gateway does not know that key." : "This gateway wants an API key.");
  }
  if (reply.status === 403) throw new KeyError(await messageOf(reply));
  if (!reply.ok) throw new Error(await messageOf(reply));
  return reply;
}

async function messageOf(reply) {
  const words = `the gateway answered with status ${reply.status}`;
  const { error } = await reply.json().catch(() => ({}));
  return error?.message ?? error ?? words; // OpenAI's shape, or TGI's
}

function keepKey(key) {
  sessionStorage.setItem(KEY_NAME, key);
}
