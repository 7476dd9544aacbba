// Makes the programs on the page ready to run: with this server's address, and a button that copies them.
'use strict';

for (const button of document.querySelectorAll('button.copy')) {
  const code = button.parentElement.querySelector('code');
  code.textContent = code.textContent.replaceAll('http://127.0.0.1:3000', location.origin);
  button.addEventListener('click', () => {
    // navigator.clipboard is there only under https and on loopback hosts.
    getSelection().selectAllChildren(code);
    button.textContent = document.execCommand('copy') ? 'Copied' : 'Selected';
    setTimeout(() => (button.textContent = 'Copy'), 2000);
  });
}
