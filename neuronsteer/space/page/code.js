// The Code page: the program that gives this text, a link, a client.

const $ = (id) => document.getElementById(id);

export function setUpCode() {
  for (const button of document.querySelectorAll(".copy")) {
    button.addEventListener("click", async () => {
      const said = await copy($(button.dataset.of).textContent);
      button.textContent = said;
      setTimeout(() => { button.textContent = "Copy"; }, 1600);
    });
  }
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return "Copied";
  } catch {
    // Without permission, or not over https: the old way.
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done ? "Copied" : "Select and copy it";
  }
}

const python = (value) => (typeof value === "boolean" ? (value ? "True" : "False") : JSON.stringify(value));

export function showClient(state) {
  const place = location.href.split(/[?#]/)[0];
  $("client").textContent = `from gradio_client import Client

client = Client(${python(place)})
job = client.submit(
    ${python(state.prompt)},
    ${python(state.schedule)},
    seed=${state.seed},
    pace=12,  # tokens per second
    api_name="/generate",
)
for seen in job:  # snapshots, while it writes
    print(seen["tokens"], seen["lanes"][0]["text"][-60:])
    if seen["tokens"] == 30:
        client.predict("-", api_name="/switch")  # no steering, from the next token on
`;
}

export const showSnippet = (code) => { if (code) $("snippet").textContent = code; };
export const showLink = (url) => { $("link").textContent = url.href; };
