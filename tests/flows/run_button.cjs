// Press Run in Prefect's pages, with a changed learning rate, and follow the run to MLflow: node run_button.cjs JSON
// {prefect, mlflow, out, chromium, overrides: [...], tasks: [...], model, patience_s}. Prints the results as one JSON object.
const {chromium} = require('playwright-core');
const fs = require('fs');

const options = JSON.parse(process.argv[2]);
const FLAGS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
  '--disable-component-update', '--disable-sync'];
const ENDED = /^\s*(Completed|Failed|Crashed|Cancelled)\s*$/;
const PAGE_MS = 300000; // a page on a busy machine; the run itself has patience_s
const SETTLE_MS = 3000; // charts and tables are drawn after the text that was waited for

async function main() {
  const browser = await chromium.launch({executablePath: options.chromium, args: FLAGS});
  const page = await browser.newPage({viewport: {width: 1400, height: 1600}});
  page.setDefaultTimeout(options.patience_s * 1000);
  const shot = name => page.screenshot({path: `${options.out}/${name}.png`});
  const seen = {};

  // the form
  await page.goto(`${options.prefect}/deployments`);
  await page.getByRole('link', {name: 'pipeline', exact: true}).first().click();
  await page.getByRole('button', {name: 'Run', exact: true}).first().click();
  await page.getByText('Custom run').first().click();
  await page.getByText('Add item').first().waitFor();
  for (const item of options.overrides) {
    const before = await page.locator('input, textarea').count();
    await page.getByText('Add item').first().click();
    await page.waitForFunction(n => document.querySelectorAll('input, textarea').length > n, before);
    await fill(page, item);
  }
  // the choices: Chromium 156 closes the list again if the mouse opens it (Prefect 3.9.1)
  await page.locator('.schema-form-property-array .p-select-button__control').first().focus();
  await page.keyboard.press('ArrowDown');
  for (const item of options.tasks) {
    await page.locator('.p-select-option').getByText(item, {exact: true}).click();
  }
  await page.getByText('Parameters', {exact: true}).first().click(); // closes the list
  seen.name = await page.locator('input').first().inputValue();
  await shot('1-form');
  await page.getByRole('button', {name: 'Submit'}).click();

  // the run
  await page.waitForURL(url => !url.pathname.endsWith('/run'));
  await page.goto(`${options.prefect}/runs`);
  await page.getByRole('link', {name: seen.name}).first().click();
  await page.waitForURL(/flow-run\//);
  seen.run = page.url().split('/').pop().split('?')[0];
  await page.getByText('Task Runs', {exact: true}).waitFor();
  await page.waitForTimeout(SETTLE_MS);
  await shot('2-started');
  const state = page.locator('.page-heading-flow-run__meta .state-badge').filter({hasText: ENDED}).first();
  await state.waitFor();
  seen.state = (await state.innerText()).trim();
  await page.waitForTimeout(SETTLE_MS);
  await shot('3-ended');

  // its results
  page.setDefaultTimeout(PAGE_MS);
  await page.getByText('Artifacts', {exact: true}).first().click();
  await page.getByRole('link', {name: /results/i}).first().click();
  await page.locator('table').first().getByText(options.tasks[0]).waitFor();  // the rows come after the header
  seen.results = (await page.locator('table').first().innerText()).split('\n');
  await page.waitForTimeout(SETTLE_MS);
  await shot('4-results');
  seen.link = await page.getByRole('link', {name: "MLflow's run"}).first().getAttribute('href');

  // MLflow
  await page.goto(seen.link);
  await page.getByPlaceholder('Search metrics').first().fill('overall_acc'); // a long list renders only its visible part
  await page.getByText(`${options.tasks[0]}/overall_acc`).first().waitFor();
  await page.waitForTimeout(SETTLE_MS);
  seen.mlflow = (await page.innerText('body')).slice(0, 4000);
  await shot('5-mlflow-run');
  await page.goto(`${options.mlflow}/#/models/${options.model}`);
  await page.getByText('Version 1').first().waitFor();
  await page.waitForTimeout(SETTLE_MS);
  seen.versions = (await page.innerText('body')).match(/Version \d+/g) || [];
  await shot('6-mlflow-model');
  await browser.close();
  console.log(JSON.stringify(seen));
}

async function fill(page, text) {
  // the last added field of the list has no label, but it is the only empty one
  const empty = page.locator('textarea:visible, input[type=text]:visible, input:not([type]):visible');
  for (let at = await empty.count() - 1; at >= 0; at--) {
    const one = empty.nth(at);
    if ((await one.inputValue()) === '') {
      await one.fill(text);
      return;
    }
  }
  throw new Error('the form has no empty field');
}

main().catch(error => {
  console.error(error.message.split('\n')[0]);
  fs.writeFileSync(`${options.out}/error.txt`, error.stack);
  process.exit(1);
});
