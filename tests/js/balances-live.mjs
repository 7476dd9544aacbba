// Opens the page of the balances in a real browser, and prints what it shows whenever that changes, as lines of JSON.
//
//     node balances-live.mjs SERVER
//
// It runs until it is killed, and the browser ends with it.

import { launch, openReporting } from './browser.mjs';

const [server] = process.argv.slice(2);
const browser = await launch();
try {
  const { tab } = await openReporting(browser);
  await tab.setViewport({ width: 1280, height: 1600 }); // with the charts in sight
  await tab.goto(server);
  await tab.evaluate(() => {
    const show = () => {
      const amounts = [...document.querySelectorAll('.amount')].map((amount) => amount.textContent);
      const plot = document.querySelector('.plot');
      const lines = plot?.data?.[0].customdata.slice(-3) ?? [];
      const epochs = plot?.layout?.annotations.map(({ hovertext }) => hovertext) ?? [];
      const { dataset, textContent } = document.getElementById('connection');
      window.report('shown', { state: dataset.state, status: textContent, amounts, lines, epochs });
    };
    new MutationObserver(show).observe(document.body, { attributes: true, childList: true, subtree: true, characterData: true });
    show();
  });
  await new Promise(() => {});
} finally {
  await browser.close();
}
