// Open pages, wait until each shows its texts, and take a picture of it: node pages.cjs JSON
// {chromium, out, patience_s, pages: [{name, url, texts}]}. Ends with an error that names the text that did not come.
const {chromium} = require('playwright-core');

const given = JSON.parse(process.argv[2]);
const FLAGS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
  '--disable-component-update', '--disable-sync'];

async function main() {
  const browser = await chromium.launch({executablePath: given.chromium, args: FLAGS});
  const page = await browser.newPage({viewport: {width: 1500, height: 1300}});
  page.setDefaultTimeout(given.patience_s * 1000);
  for (const {name, url, texts} of given.pages) {
    await page.goto('about:blank');  // a page that differs in its fragment alone would not be loaded anew
    await page.goto(url);
    for (const text of texts) {
      await page.getByText(text).first().waitFor({state: 'attached'});
    }
    await page.waitForTimeout(2000);  // for curves to be drawn
    await page.screenshot({path: `${given.out}/${name}.png`});
  }
  await browser.close();
}

main().catch(error => {
  console.error(String(error));
  process.exit(1);
});
