showGallery(data.galleries[0], document.getElementById("gallery"));
