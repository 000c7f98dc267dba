// Answers texts with a demo page in a browser, as a person types them: node demo.mjs BROWSER ADDRESS PICTURE WIDTH TEXTS.json -> JSON
import { readFileSync } from "node:fs";
import { chromium } from "playwright-core";

const [browserPath, address, picture, width, texts] = process.argv.slice(2);
const browser = await chromium.launch({executablePath: browserPath, args: ["--no-sandbox"]});
const page = await browser.newPage({viewport: {width: Number(width), height: 800}});
const asked = [], errors = [];
page.on("request", request => asked.push(request.url()));
page.on("pageerror", error => errors.push(error.message));
page.on("console", message => message.type() === "error" && errors.push(message.text()));
await page.goto(address);

async function answered(texts) {
  await page.waitForFunction(said => document.getElementById("time").dataset.answered === said, JSON.stringify(texts), {timeout: 60000});
  const cells = await page.locator("#classes span").allTextContents();
  const shares = Object.fromEntries(cells.filter((_, i) => i % 2 === 0).map((name, i) => [name, Number(cells[2 * i + 1])]));
  return {label: await page.textContent("#label"), shares, time: await page.textContent("#time")};
}

const found = [];
await answered([await page.inputValue("#text")]);
for (const text of JSON.parse(readFileSync(texts, "utf-8"))) {
  await page.fill("#text", text);
  found.push(await answered([text]));
}
await page.screenshot({path: picture, fullPage: true});
await browser.close();
console.log(JSON.stringify({found, asked: asked.filter(url => !url.startsWith("blob:")), errors}));
