// Puts this server's address into the programs on the page, and gives each a button that copies it.
'use strict';

for (const button of document.querySelectorAll('button.copy')) {
  const code = button.parentElement.querySelector('code');
  // Before a path comes the prefix too; socket.io-client has it in its option `path`.
  code.textContent = code.textContent
    .replaceAll('http://127.0.0.1:3000/', `${location.origin}${document.body.dataset.prefix}/`)
    .replaceAll('http://127.0.0.1:3000', location.origin);
  button.addEventListener('click', () => {
    // navigator.clipboard exists only under https and on loopback hosts.
    getSelection().selectAllChildren(code);
    button.textContent = document.execCommand('copy') ? 'Copied' : 'Selected';
    setTimeout(() => (button.textContent = 'Copy'), 2000);
  });
}
